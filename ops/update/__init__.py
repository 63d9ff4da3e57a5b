"""Another version of the stack: its files, and the way back."""
