# Completion of gptpipe-usage in fish.

complete -c gptpipe-usage -f
complete -c gptpipe-usage -l by -x -a 'day model session program' -d 'a row for each'
complete -c gptpipe-usage -l since -x -a '1d 7d 4w' -d 'from this day on, or not older than this'
complete -c gptpipe-usage -l json -d 'print each row as JSON'
complete -c gptpipe-usage -l plot -d 'draw a bar of tokens for each row'
complete -c gptpipe-usage -l config -r -F -d 'another settings file'
complete -c gptpipe-usage -s h -l help -d 'show the help and end'
complete -c gptpipe-usage -l version -d 'show the version and end'
