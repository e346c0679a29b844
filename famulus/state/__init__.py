"""What is remembered: tables, the marks of handled ids, and how they become durable."""
