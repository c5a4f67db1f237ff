# Completion of gptpipe-models in fish, with the functions of gptpipe's.

functions -q __gptpipe_endpoint; or source (status dirname)/gptpipe.fish

complete -c gptpipe-models -f
__gptpipe_endpoint gptpipe-models
__gptpipe_other gptpipe-models
