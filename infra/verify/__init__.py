"""The proof that training sees what serving saw, written against the contracts instead of the code it checks."""
