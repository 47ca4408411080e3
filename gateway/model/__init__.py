"""Values, errors and ports that everything else is made of; pure."""
