# trainkit in fish. In ~/.config/fish/config.fish: trainkit completion fish | source
function __trainkit_words
    set -l typed (commandline -opc)
    if test (count $typed) -eq 1
        echo @COMMANDS@ | string split ' '
    end
    set -l configured @CONFIGURED@
    if test (count $typed) -eq 1; or string match -q '*=*' -- $typed[2]; or contains -- $typed[2] $configured
        echo @KEYS@ | string split ' '
        for group in @GROUPS@
            for path in conf/$group/*.yaml
                echo $group=(basename $path .yaml)
            end
        end
    else if test (count $typed) -eq 2
        switch $typed[2]
@SUBCOMMANDS@
        end
    end
end
complete -c trainkit -a '(__trainkit_words)'
