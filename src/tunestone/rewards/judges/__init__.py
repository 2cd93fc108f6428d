"""Models as judges: endpoints, rubrics, OpenAI's model graders, agreement with people."""
