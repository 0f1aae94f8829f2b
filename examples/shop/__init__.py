"""A small shop: orders come in, stock is reserved, payments are taken, receipts are written."""
