"""A web page that classifies images and shows the network at work: the explorer's, with the network on the server."""
