"""What a head spread over ranks costs: measured on this machine, computed for larger ones."""
