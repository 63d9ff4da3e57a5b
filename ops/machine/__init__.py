"""The machine: its engine, its settings, its size, and whose the stack on it is."""
