"""The two sides that are measured against each other: Tunestone and TRL's GRPOTrainer."""
