"""What the demo shows at its end: a table in the terminal and one self-contained HTML file."""
