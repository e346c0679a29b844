"""Operator commands to a running group, and the admin topic through which workers learn them."""
