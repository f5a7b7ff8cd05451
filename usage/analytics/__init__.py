"""The questions that pages and endpoints ask of usage, each written once."""
