"""Import and export of networks in other programs' file formats."""
