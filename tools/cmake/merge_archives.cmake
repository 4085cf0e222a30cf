# cmake -D OUTPUT=<.a> -D OURS=<archives> -D OUTSIDE=<archives> -D LINKER= -D AR= -D NM= -D OBJCOPY= -P this: one archive
# with one object, which holds all of OURS and what these need of OUTSIDE. The functions and variables of OUTSIDE become
# local. Its weak symbols stay as they are: they are inline functions of C++, and the names of groups of sections.
get_filename_component(folder ${OUTPUT} DIRECTORY)
get_filename_component(name ${OUTPUT} NAME_WE)
set(object ${folder}/${name}.o)
set(names ${folder}/${name}.names)
file(MAKE_DIRECTORY ${folder})
file(REMOVE ${OUTPUT})

set(local "")
foreach(archive IN LISTS OUTSIDE)
  execute_process(COMMAND ${NM} --defined-only --extern-only --format=posix ${archive}
    OUTPUT_VARIABLE symbols ERROR_QUIET COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^ \n]+ [TDBRC] " symbols "${symbols}")
  list(TRANSFORM symbols REPLACE " . $" "")
  list(APPEND local ${symbols})
endforeach()
list(REMOVE_DUPLICATES local)
list(JOIN local "\n" local)
file(WRITE ${names} "${local}\n")

execute_process(COMMAND ${LINKER} -r -o ${object} --whole-archive ${OURS} --no-whole-archive --start-group ${OUTSIDE} --end-group
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${OBJCOPY} --localize-symbols=${names} ${object} COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${AR} rcsD ${OUTPUT} ${object} COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE ${object} ${names})
