"""The front door: its network, its certificates, and asking the stack through it."""
