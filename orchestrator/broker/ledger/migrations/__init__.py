"""How ledgers of older versions become ones of this version: an Alembic environment.

A revision is never changed once it is released. A new one is a module in ``versions`` that
states its number in ``meta``; `tables` then describes what it leads to, and a test compares.
"""
