"""gptpipe against real servers: ``python -m engines``, which is what ``make engines`` runs."""
