"""What operators tell a group while it runs, and how every worker learns it."""
