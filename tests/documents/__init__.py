"""
What documents, examples and sample files say is what happens.
"""
