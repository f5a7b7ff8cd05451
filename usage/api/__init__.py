"""The v2 analytics API (api.md): thin views over usage.analytics."""
