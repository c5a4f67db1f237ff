# Completion of gptpipe-chat in fish, with the functions of gptpipe's.

functions -q __gptpipe_shared; or source (status dirname)/gptpipe.fish

complete -c gptpipe-chat -f
complete -c gptpipe-chat -s S -l system -x -a '(__gptpipe_at_files)' -d 'the system message; @PATH reads it from a file'
complete -c gptpipe-chat -s r -l role -x -a '(__gptpipe_roles)' -d 'a role: system message and settings'
complete -c gptpipe-chat -s V -l var -x -d "a value for the role's {KEY}"
complete -c gptpipe-chat -s s -l session -x -a '(__gptpipe_sessions)' -d 'continue this conversation and append the turns'
complete -c gptpipe-chat -l history -x -d 'send at most the last N turns'
complete -c gptpipe-chat -l history-tokens -x -d 'send the latest turns that fit'
complete -c gptpipe-chat -l lock-timeout -x -d 'wait this long for another process in the session'
complete -c gptpipe-chat -l cache -x -d 'reuse the answer to the same request'
complete -c gptpipe-chat -l cache-only -d 'never ask, only reuse'
complete -c gptpipe-chat -l max-cost -x -d 'what the chat may cost in USD'
complete -c gptpipe-chat -l web -d 'let the model search the web'
complete -c gptpipe-chat -l over-budget -d 'go on when a budget is reached'
complete -c gptpipe-chat -l plain -d 'show answers as they were written'
complete -c gptpipe-chat -l no-history -d 'keep nothing of what is typed'
__gptpipe_tools gptpipe-chat
__gptpipe_shared gptpipe-chat
