"""A web page that classifies images and explains the result."""
