# trainkit in bash. In ~/.bashrc: eval "$(trainkit completion bash)"
_trainkit() {
    local before="${COMP_LINE:0:COMP_POINT}" words="" group path
    local current="${before##* }" first
    read -r _ first _ <<<"$before"
    case "$first" in *=*|@CONFIGURED@) words="@KEYS@" ;; esac
    if [[ $COMP_CWORD -eq 1 || "$first" == "$current" ]]; then
        words="@COMMANDS@ @KEYS@"
    elif [[ -z "$words" ]]; then
        case "$first" in
@SUBCOMMANDS@
        esac
        read -r _ _ group _ <<<"$before"
        [[ -n "$group" && "$group" != "$current" ]] && words=""
    fi
    [[ -z "$words" ]] && return  # a run folder, say: files
    for group in @GROUPS@; do
        [[ "$words" == *" train.steps="* ]] || break  # no words of a run
        for path in conf/"$group"/*.yaml; do
            [[ -e "$path" ]] && path="${path##*/}" && words+=" $group=${path%.yaml}"
        done
    done
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
    # bash takes = for the end of a word, and replaces only what comes after it.
    if [[ "$current" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${current%%=*}="}")
    fi
}
complete -o default -F _trainkit trainkit
