"""placeholder"""


def run(effort, say):
    return []
