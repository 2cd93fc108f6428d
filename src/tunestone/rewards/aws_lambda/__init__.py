"""Reward Lambdas of Amazon Bedrock, as a file, a deployment zip, or on AWS."""
