"""What a message's bytes mean: frames in, values out."""
