# Completion of gptpipe-sessions in fish, with the functions of gptpipe's.

functions -q __gptpipe_sessions; or source (status dirname)/gptpipe.fish

complete -c gptpipe-sessions -f
complete -c gptpipe-sessions -s h -l help -d 'show the help and end'
complete -c gptpipe-sessions -n __fish_use_subcommand -l version -d 'show the version and end'
complete -c gptpipe-sessions -n __fish_use_subcommand -a list -d 'list the sessions, the last used first'
complete -c gptpipe-sessions -n __fish_use_subcommand -a show -d 'show the turns of a session'
complete -c gptpipe-sessions -n __fish_use_subcommand -a search -d 'search all sessions for a regular expression'
complete -c gptpipe-sessions -n __fish_use_subcommand -a path -d 'print the path of a session'
complete -c gptpipe-sessions -n __fish_use_subcommand -a copy -d 'fork a session'
complete -c gptpipe-sessions -n __fish_use_subcommand -a rename -d 'give a session another name'
complete -c gptpipe-sessions -n __fish_use_subcommand -a remove -d 'remove sessions'
complete -c gptpipe-sessions -n __fish_use_subcommand -a check -d 'list damaged lines'

function __gptpipe_after
    complete -c gptpipe-sessions -n "__fish_seen_subcommand_from $argv[1]" $argv[2..]
end

__gptpipe_after 'show path copy rename remove check' -a '(__gptpipe_sessions)' -d session
__gptpipe_after 'copy rename remove check' -l lock-timeout -x -d 'wait this long for another process in the session'
__gptpipe_after list -l header -d 'begin with a line that names the columns'
__gptpipe_after list -l json -d 'a JSON object on each line'
__gptpipe_after show -s n -l last -x -d 'the last turns only'
__gptpipe_after show -l answer -d 'the last answer only'
__gptpipe_after show -s x -l extract -d "the last answer's first code block only"
__gptpipe_after show -l json -d 'the lines of the file'
__gptpipe_after search -s i -l ignore-case -d 'take small and capital letters as the same'
__gptpipe_after search -s l -l names -d 'only the names of the sessions'
__gptpipe_after 'copy rename' -l force -d 'replace a session that exists'
__gptpipe_after remove -l older-than -x -d 'only those not used for so long'
__gptpipe_after remove -s y -l yes -d 'do not ask'
__gptpipe_after check -l repair -d 'move damaged lines aside'
functions -e __gptpipe_after
