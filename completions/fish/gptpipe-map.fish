# Completion of gptpipe-map in fish, with the functions of gptpipe's.

functions -q __gptpipe_sessions; or source (status dirname)/gptpipe.fish

complete -c gptpipe-map -f -a '(__gptpipe_at_files)'
complete -c gptpipe-map -s f -l file -r -F -d 'read the records from a file'
complete -c gptpipe-map -l jsonl -d 'each line is JSON'
complete -c gptpipe-map -l csv -d 'rows under a header'
complete -c gptpipe-map -l files -d 'each line is the path of a file'
complete -c gptpipe-map -s 0 -l null -d 'records, and bare answers, end with NUL'
complete -c gptpipe-map -l encoding -x -a 'utf-8 utf-16 latin-1 cp1252 big5 euc-jp euc-kr gb18030 koi8-r shift_jis' -d 'of the input'
complete -c gptpipe-map -s S -l system -x -a '(__gptpipe_at_files)' -d 'the system message; @PATH reads it from a file'
complete -c gptpipe-map -s r -l role -x -a '(__gptpipe_roles)' -d 'a role: system message and settings'
complete -c gptpipe-map -s V -l var -x -d "a value for the role's {KEY}"
complete -c gptpipe-map -s j -l jobs -x -d 'so many at once'
complete -c gptpipe-map -l rpm -x -d 'requests a minute, at most'
complete -c gptpipe-map -l tpm -x -d 'tokens a minute, at most'
complete -c gptpipe-map -l max-failures -x -d 'stop when so many have failed'
complete -c gptpipe-map -s o -l output -r -F -d 'write the results to a new file'
complete -c gptpipe-map -l resume -d 'go on with that file'
complete -c gptpipe-map -l retry-failed -d 'ask again what was truncated or refused, too'
complete -c gptpipe-map -l unordered -d 'results as they come'
complete -c gptpipe-map -l text -d 'bare answers, one a line'
complete -c gptpipe-map -l no-record -d 'leave the record out of its result'
complete -c gptpipe-map -l schema -r -F -d 'ask for JSON by this JSON Schema'
complete -c gptpipe-map -l repair -x -d 'turns to mend an answer that is not valid'
complete -c gptpipe-map -l cache -x -d 'reuse the answer to the same request'
complete -c gptpipe-map -l cache-only -d 'never ask, only reuse'
complete -c gptpipe-map -l web -d 'let the model search the web'
complete -c gptpipe-map -l over-budget -d 'go on when a budget is reached'
complete -c gptpipe-map -l dry-run -d 'count records and tokens, send nothing'
complete -c gptpipe-map -l tool-calls -d 'print the calls as JSON lines, run none'
__gptpipe_tools gptpipe-map
__gptpipe_shared gptpipe-map
