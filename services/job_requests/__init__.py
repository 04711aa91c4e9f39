"""What a client may ask for: the JSON Schema, its error messages, items and condition images."""
