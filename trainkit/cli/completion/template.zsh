# trainkit in zsh. In ~/.zshrc, after compinit: eval "$(trainkit completion zsh)"
_trainkit() {
  local -a found
  local group path
  case "$words[2]" in *=*|@CONFIGURED@) found=(@KEYS@) ;; esac
  if (( CURRENT == 2 )); then
    found=(@COMMANDS@ @KEYS@)
  elif (( CURRENT == 3 && ! $#found )); then
    case "$words[2]" in
@SUBCOMMANDS@
    esac
  fi
  if (( ! $#found )); then
    _files
    return
  fi
  for group in @GROUPS@; do
    (( $found[(Ie)train.steps=] )) || break  # no words of a run
    for path in conf/$group/*.yaml(N); do found+=("$group=${${path:t}%.yaml}"); done
  done
  compadd -Q -S '' -- $found
}
compdef _trainkit trainkit
