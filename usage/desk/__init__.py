"""The platform's desk: usage that should have come and has not, and usage that does not add up."""
