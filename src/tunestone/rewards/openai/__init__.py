"""OpenAI's graders: string_check, text_similarity and python."""
