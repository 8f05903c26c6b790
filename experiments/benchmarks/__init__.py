"""What calls cost on the device at hand, and beside yardsticks."""
