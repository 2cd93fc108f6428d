"""`tunestone check`: whether data and reward can work, said before anything is trained.

Four sections, each a list of findings with the numbers they rest on: the data, the reward, the
signal that base completions give, and a plan with the reason of every setting. A section looks and
says; it changes nothing. What reads the report (terminal, JSON, HTML) knows records only.
"""
