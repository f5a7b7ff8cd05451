"""The queries behind pages and endpoints, each written once."""
