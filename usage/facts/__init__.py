"""The facts: what is received, decided, stored, posted and voided."""
