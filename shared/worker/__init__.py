"""Runs steps: the asyncio process that moves messages, and the child process that does the work."""
