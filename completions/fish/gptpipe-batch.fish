# Completion of gptpipe-batch in fish, with the functions of gptpipe's.

functions -q __gptpipe_sessions; or source (status dirname)/gptpipe.fish

function __gptpipe_batches
    __gptpipe_names "$XDG_STATE_HOME" .local/state batches ''
end

complete -c gptpipe-batch -f
complete -c gptpipe-batch -s h -l help -d 'show the help and end'
complete -c gptpipe-batch -n __fish_use_subcommand -l version -d 'show the version and end'
complete -c gptpipe-batch -n __fish_use_subcommand -a submit -d 'send a request for each record'
complete -c gptpipe-batch -n __fish_use_subcommand -a status -d 'say how far batches are'
complete -c gptpipe-batch -n __fish_use_subcommand -a fetch -d 'print the results of a batch'
complete -c gptpipe-batch -n __fish_use_subcommand -a cancel -d 'cancel a batch'
complete -c gptpipe-batch -n __fish_use_subcommand -a list -d 'list what was submitted'

function __gptpipe_after
    complete -c gptpipe-batch -n "__fish_seen_subcommand_from $argv[1]" $argv[2..]
end

__gptpipe_after 'status fetch cancel' -a '(__gptpipe_batches)' -d batch
__gptpipe_after 'submit status fetch cancel list' -l config -r -F -d 'another settings file'
__gptpipe_after 'submit status fetch cancel' -s v -l verbose -d 'notes on standard error'
__gptpipe_after 'submit status fetch cancel' -l max-time -x -d 'limit for the whole run'
__gptpipe_after 'submit status fetch cancel' -l connect-timeout -x -d 'limit for name, TCP, TLS and proxy'
__gptpipe_after 'submit status fetch cancel' -l idle-timeout -x -d 'limit for silence after that'
__gptpipe_after 'submit status fetch cancel' -l retry -x -d 'tries after the first'
__gptpipe_after 'submit status fetch cancel' -l max-input-tokens -x -d 'refuse to send more than this'
__gptpipe_after 'submit status fetch cancel' -l base-url -x -d "the endpoint's address"
__gptpipe_after 'submit status fetch cancel' -l proxy -x -d 'http, https, socks5 or socks5h'
__gptpipe_after 'submit status fetch cancel' -l cacert -r -F -d 'trust the authorities in this file'
__gptpipe_after fetch -l wait -d 'wait for the end of the batch'
__gptpipe_after fetch -l results -r -F -d 'a result file of another engine'
__gptpipe_after fetch -l failed-records -d 'the records that failed'
__gptpipe_after fetch -l no-record -d 'leave the record out of its result'
__gptpipe_after submit -s f -l file -r -F -d 'read the records from a file'
__gptpipe_after submit -l jsonl -d 'each line is JSON'
__gptpipe_after submit -l csv -d 'rows under a header'
__gptpipe_after submit -l files -d 'each line is the path of a file'
__gptpipe_after submit -l tsv -d 'rows under a header, tabs between the cells'
__gptpipe_after submit -l delimiter -x -d 'what is between cells'
__gptpipe_after submit -s 0 -l null -d 'records end with NUL'
__gptpipe_after submit -l encoding -x -a 'utf-8 utf-16 latin-1 cp1252 big5 euc-jp euc-kr gb18030 koi8-r shift_jis' -d 'of the input'
__gptpipe_after submit -l resume -r -F -d 'only the records that have no answer in this file'
__gptpipe_after submit -l no-dedupe -d 'ask for equal records each'
__gptpipe_after submit -l batch-size -x -d 'requests in a batch'
__gptpipe_after submit -l queued -x -d 'unfinished batches at once'
__gptpipe_after submit -l wait -d 'stay until all is submitted'
__gptpipe_after submit -l continue -x -a '(__gptpipe_batches)' -d 'submit more of this one'
__gptpipe_after submit -l completion-window -x -a 24h -d 'when it is to be done'
__gptpipe_after submit -s S -l system -x -a '(__gptpipe_at_files)' -d 'the system message; @PATH reads it from a file'
__gptpipe_after submit -s r -l role -x -a '(__gptpipe_roles)' -d 'a role: system message and settings'
__gptpipe_after submit -s V -l var -x -d "a value for the role's {KEY}"
__gptpipe_after submit -l schema -r -F -d 'ask for JSON by this JSON Schema'
__gptpipe_after submit -l repair -x -d 'turns to mend an answer that is not valid'
__gptpipe_after submit -l web -d 'let the model search the web'
__gptpipe_after submit -l over-budget -d 'go on when a budget is reached'
__gptpipe_after submit -l dry-run -d 'count records and tokens, send nothing'
__gptpipe_after submit -l requests-only -d 'write the request file; send nothing'
__gptpipe_after submit -s m -l model -x -a '(__gptpipe_settings models)' -d 'the model'
__gptpipe_after submit -s p -l profile -x -a '(__gptpipe_settings profiles)' -d 'an endpoint from the settings, or a built-in one'
__gptpipe_after submit -l temperature -x -d 'sampling temperature'
__gptpipe_after submit -l max-tokens -x -d 'the longest answer'
__gptpipe_after submit -l api -x -a 'auto chat responses' -d 'the protocol'
__gptpipe_after submit -l reasoning-effort -x -a 'none minimal low medium high xhigh' -d 'how much the model thinks'
__gptpipe_after submit -s O -l param -x -d 'any other field of the request'
functions -e __gptpipe_after
