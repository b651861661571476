"""How many events a second `longrank verify` checks, against only reading them."""
