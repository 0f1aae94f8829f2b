"""The outbox: messages that a transaction has made sure, until their transport has them."""
