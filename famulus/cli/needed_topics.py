"""Creation of the topics that the subscriptions need."""

from famulus.application import Famulus
from famulus.kafka.admin import dead_letter_configs, ensure_topics


async def make_needed(app: Famulus) -> dict[str, int]:
    """Create the missing topics and their dead letter topics.

    Returns the partition counts of the topics that existed before. Raises UnavailableError,
    AccessError and ConfigError as `ensure_topics` does.
    """
    settings = app.settings
    letters = {app.dead_letter_topic(subscription) for subscription in app.subscriptions.values()}
    configs = dead_letter_configs(settings.kafka, settings.dead_letter.retention_h)
    return await ensure_topics(
        settings.kafka,
        app.topics_needed(),
        settings.worker.startup_timeout_s,
        dict.fromkeys(letters, configs),
    )
