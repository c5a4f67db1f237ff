# Completion of gptpipe-config in fish, with the functions of gptpipe's.

functions -q __gptpipe_settings; or source (status dirname)/gptpipe.fish

complete -c gptpipe-config -f
complete -c gptpipe-config -s h -l help -d 'show the help and end'
complete -c gptpipe-config -n __fish_use_subcommand -l version -d 'show the version and end'
complete -c gptpipe-config -n __fish_use_subcommand -a show -d 'print the settings in effect'
complete -c gptpipe-config -n __fish_use_subcommand -a init -d 'write a settings file to begin with'
complete -c gptpipe-config -n __fish_use_subcommand -a path -d 'print where things are'
complete -c gptpipe-config -n __fish_use_subcommand -a check -d 'tell what works and what does not'
complete -c gptpipe-config -n __fish_use_subcommand -a roles -d 'list the roles'
complete -c gptpipe-config -n __fish_use_subcommand -a tools -d 'list the tools and say what is wrong with one'
complete -c gptpipe-config -n __fish_use_subcommand -a cache -d 'tell how many answers are kept, or remove them'
complete -c gptpipe-config -n __fish_use_subcommand -a tokenizer -d 'fetch what counts tokens exactly'
complete -c gptpipe-config -n __fish_use_subcommand -a install-docs -d 'link the manual pages and completions'

function __gptpipe_after
    complete -c gptpipe-config -n "__fish_seen_subcommand_from $argv[1]" $argv[2..]
end

__gptpipe_after 'show init path check tokenizer tools' -l config -r -F -d 'another settings file'
__gptpipe_after path -a 'settings roles sessions attachments usage batches answers vocabularies'
__gptpipe_after check -l online -d 'ask the endpoint too'
__gptpipe_after check -s v -l verbose -d 'notes on standard error'
__gptpipe_after cache -a clear -d 'remove the answers'
__gptpipe_after cache -l older-than -x -d 'remove only those that are older'
__gptpipe_after tokenizer -a 'o200k_base cl100k_base'
__gptpipe_after 'show check' -s m -l model -x -a '(__gptpipe_settings models)' -d 'the model'
__gptpipe_after 'show check' -s p -l profile -x -a '(__gptpipe_settings profiles)' -d 'an endpoint from the settings, or a built-in one'
__gptpipe_after 'show check' -l temperature -x -d 'sampling temperature'
__gptpipe_after 'show check' -l max-tokens -x -d 'the longest answer'
__gptpipe_after 'show check' -l api -x -a 'auto chat responses' -d 'the protocol'
__gptpipe_after 'show check' -l reasoning-effort -x -a 'none minimal low medium high xhigh' -d 'how much the model thinks'
__gptpipe_after 'show check' -s O -l param -x -d 'any other field of the request'
__gptpipe_after 'show check' -l max-time -x -d 'limit for the whole run'
__gptpipe_after 'show check' -l connect-timeout -x -d 'limit for name, TCP, TLS and proxy'
__gptpipe_after 'show check' -l idle-timeout -x -d 'limit for silence after that'
__gptpipe_after 'show check' -l retry -x -d 'tries after the first'
__gptpipe_after 'show check' -l max-input-tokens -x -d 'refuse to send more than this'
__gptpipe_after 'show check' -l base-url -x -d "the endpoint's address"
__gptpipe_after 'show check tokenizer' -l proxy -x -d 'http, https, socks5 or socks5h'
__gptpipe_after 'show check tokenizer' -l cacert -r -F -d 'trust the authorities in this file'
functions -e __gptpipe_after
