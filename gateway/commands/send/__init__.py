"""C{gateway send}: inputs, sending, and the state kept between runs."""
