"""What Slack's client raises."""


class SlackApiError(Exception):
    """Never raised here."""
