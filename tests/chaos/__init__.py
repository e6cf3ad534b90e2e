"""Agents in processes of their own, killed at random, and a broker that is killed and comes back."""
