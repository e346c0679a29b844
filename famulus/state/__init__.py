"""State of subscriptions: tables, marks of handled events, and how both become durable."""
