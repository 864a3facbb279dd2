"""Sample data sets for demonstration, made from packages of PyPI, npm and Debian."""
