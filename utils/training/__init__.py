"""What trains a net."""
