# Completion of gptpipe in fish. The files gptpipe-* beside this one use its functions. Options and names of files
# cost no process; names from the settings file cost one.

# Names of the files in a folder: its base directory, the default below HOME, the folder there, and what the files'
# names end with.
function __gptpipe_names -a base default folder suffix
    string match -q '/*' -- $base; or set base $HOME/$default
    for path in $base/gptpipe/$folder/*$suffix
        string replace -r -- "$(string escape --style=regex -- $suffix)\$" '' (path basename $path)
    end
end

function __gptpipe_sessions
    __gptpipe_names "$XDG_DATA_HOME" .local/share sessions .jsonl
end

function __gptpipe_roles
    __gptpipe_names "$XDG_CONFIG_HOME" .config roles .md
end

# Names from the settings file: models, profiles.
function __gptpipe_settings -a kind
    _GPTPIPE_COMPLETE=$kind gptpipe 2>/dev/null
end

# A file after an @, for a text that may stand in one.
function __gptpipe_at_files
    set -l token (commandline --current-token --cut-at-cursor | string replace -r '^(--system=|-S)' '')
    string match -q -r '^@(?!@)' -- $token; or return
    for path in (string sub -s 2 -- $token)*
        test -d $path; and set path $path/
        echo @$path
    end
end

# What several programs share, as in gptpipe/options.py.
function __gptpipe_endpoint -a program
    complete -c $program -s p -l profile -x -a '(__gptpipe_settings profiles)' -d 'an endpoint from the settings, or a built-in one'
    complete -c $program -l max-time -x -d 'limit for the whole run'
    complete -c $program -l connect-timeout -x -d 'limit for name, TCP, TLS and proxy'
    complete -c $program -l idle-timeout -x -d 'limit for silence after that'
    complete -c $program -l retry -x -d 'tries after the first'
    complete -c $program -l base-url -x -d "the endpoint's address"
    complete -c $program -l proxy -x -d 'http, https, socks5 or socks5h'
    complete -c $program -l cacert -r -F -d 'trust the authorities in this file'
end

function __gptpipe_shared -a program
    __gptpipe_endpoint $program
    complete -c $program -s m -l model -x -a '(__gptpipe_settings models)' -d 'the model'
    complete -c $program -l temperature -x -d 'sampling temperature'
    complete -c $program -l max-tokens -x -d 'the longest answer'
    complete -c $program -l api -x -a 'auto chat responses' -d 'the protocol'
    complete -c $program -l reasoning-effort -x -a 'none minimal low medium high xhigh' -d 'how much the model thinks'
    complete -c $program -s O -l param -x -d 'any other field of the request'
    complete -c $program -l max-input-tokens -x -d 'refuse to send more than this'
    __gptpipe_other $program
end

function __gptpipe_tools -a program
    complete -c $program -l tool -r -F -a '(__gptpipe_names "$XDG_CONFIG_HOME" .config tools "")' -d 'an executable that the model may call'
    complete -c $program -l max-calls -x -d 'the most calls of tools'
    complete -c $program -l approve -d 'show each call on the terminal and ask before it runs'
end

function __gptpipe_other -a program
    complete -c $program -l config -r -F -d 'another settings file'
    complete -c $program -s v -l verbose -d 'notes on standard error'
    complete -c $program -s h -l help -d 'show the help and end'
    complete -c $program -l version -d 'show the version and end'
end

complete -c gptpipe -f
complete -c gptpipe -s f -l file -r -F -d 'add a file; - is standard input'
complete -c gptpipe -s n -l no-stdin -d 'do not read standard input'
complete -c gptpipe -s S -l system -x -a '(__gptpipe_at_files)' -d 'the system message; @PATH reads it from a file'
complete -c gptpipe -s r -l role -x -a '(__gptpipe_roles)' -d 'a role: system message and settings'
complete -c gptpipe -s V -l var -x -d "a value for the role's {KEY}"
complete -c gptpipe -s e -l edit -d 'write the prompt in the editor'
complete -c gptpipe -l encoding -x -a 'utf-8 utf-16 latin-1 cp1252 big5 euc-jp euc-kr gb18030 koi8-r shift_jis' -d 'of text input'
complete -c gptpipe -s s -l session -x -a '(__gptpipe_sessions)' -d 'continue this conversation and append the turn'
complete -c gptpipe -l history -x -d 'send at most the last N turns'
complete -c gptpipe -l history-tokens -x -d 'send the latest turns that fit'
complete -c gptpipe -l no-save -d 'read the conversation, append nothing'
complete -c gptpipe -l lock-timeout -x -d 'wait this long for another process in the session'
complete -c gptpipe -s o -l output -r -F -d 'write the answer to a file'
complete -c gptpipe -l no-stream -d 'print nothing until the answer is complete'
complete -c gptpipe -s x -l extract -d 'print only the first fenced code block'
complete -c gptpipe -l extract-last -d 'print only the last fenced code block'
complete -c gptpipe -l schema -r -F -d 'ask for JSON by this JSON Schema'
complete -c gptpipe -l repair -x -d 'turns to mend an answer that is not valid'
complete -c gptpipe -l json -d 'print the answer with its metadata as JSON'
complete -c gptpipe -l meta -r -F -d 'write that JSON to a file'
complete -c gptpipe -l reasoning -d "show the model's reasoning on standard error"
complete -c gptpipe -l cache -x -d 'reuse the answer to the same request'
complete -c gptpipe -l cache-only -d 'never ask, only reuse'
complete -c gptpipe -l max-cost -x -d 'what the run may cost in USD'
complete -c gptpipe -l web -d 'let the model search the web'
complete -c gptpipe -l over-budget -d 'go on when a budget is reached'
complete -c gptpipe -l save-role -x -d "write this call's settings as a role"
complete -c gptpipe -l dry-run -d 'print the request, send nothing'
complete -c gptpipe -l tool-calls -d 'print the calls as JSON lines, run none'
__gptpipe_tools gptpipe
__gptpipe_shared gptpipe
