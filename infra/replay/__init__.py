"""A recorded log as live traffic: the application's part of the loop, and what may go wrong on its way."""
