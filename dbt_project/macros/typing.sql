{# SQL that turns text as it came into types. Every one gives null for what is unusable. #}

{% macro trimmed(column) -%}
    nullif(trim({{ column }}, ' ' || chr(9) || chr(10) || chr(13)), '')
{%- endmacro %}

{# One column for each name from a list of texts in the same order. #}
{% macro columns_of(texts, names, suffix='') -%}
    {%- for name in names %}
    {{ trimmed(texts ~ '[' ~ loop.index ~ ']') }} as {{ name }}{{ suffix }}{{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}

{# A source's landed rows with some fields of their JSON as text; `names` where they are to be called otherwise. #}
{% macro landed_fields(table, of_source, fields, names=none) -%}
    select
        arrival_hour,
        source,
        file,
        row_number,
        raw,
        read_error,
        {{ columns_of('texts', names or fields) }}
    from (
        select
            *,
            json_extract_string(
                case when read_error is null then raw end, ['$.{{ fields | join("', '$.") }}']
            ) as texts
        from {{ source('landed', table) }}
        where source = '{{ of_source }}'
    )
{%- endmacro %}

{# ISO 8601 with or without a zone, a year, a day as 20101231, a second as 20101231235959, else seconds or milliseconds since 1970; in UTC, whatever
   the zone of the session. Years 1 to 9999. include/stores/formats/times.py reads the same language: change both. #}
{% macro utc_time(column) -%}
    {%- set clock = '[Tt ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{1,9})?)?' -%}
    {%- set offset = '([+-])(0[0-9]|1[0-5]):?([0-5][0-9])?' -%}
    {%- set second -%}
        regexp_replace({{ column }}, '^(....)(..)(..)(..)(..)(..).*$', '\1-\2-\3 \4:\5:\6')
    {%- endset -%}
    {%- set time -%}
        case
            when regexp_full_match({{ column }}, '-?[0-9]{1,16}([.][0-9]*)?([eE][+]?[0-9]{1,2})?')
                then case
                    when regexp_full_match({{ column }}, '[0-9]{4}([.]0*)?')
                        then try_cast(left({{ column }}, 4) || '-01-01' as timestamp)
                    when regexp_full_match({{ column }}, '[0-9]{8}([.]0*)?')
                        then try_cast(regexp_replace({{ column }}, '^(....)(..)(..).*$', '\1-\2-\3') as timestamp)
                    -- As milliseconds that would be after the year 2286, such as the year 3000, which is no such date.
                    when
                        regexp_full_match({{ column }}, '[0-9]{14}([.]0*)?')
                        and try_cast({{ second }} as timestamp) is not null
                        then try_cast({{ second }} as timestamp)
                    when abs(try_cast({{ column }} as double)) < 1e11
                        then make_timestamp(cast(round(try_cast({{ column }} as double) * 1e6) as bigint))
                    when abs(try_cast({{ column }} as double)) < 1e14
                        then make_timestamp(cast(round(try_cast({{ column }} as double) * 1e3) as bigint))
                end
            when regexp_full_match({{ column }}, '[0-9]{4}-[0-9]{2}-[0-9]{2}({{ clock }}( ?(Z|z|UTC|GMT))?)?')
                then try_cast(upper(replace(regexp_replace({{ column }}, ' ?(Z|z|UTC|GMT)$', ''), ',', '.')) as timestamp)
            when regexp_full_match({{ column }}, '[0-9]{4}-[0-9]{2}-[0-9]{2}{{ clock }} ?{{ offset }}')
                then try_cast(
                    upper(replace(regexp_replace({{ column }}, ' ?{{ offset }}$', ''), ',', '.')) as timestamp
                ) - to_minutes(
                    cast(regexp_extract({{ column }}, ' ?{{ offset }}$', 1) || '1' as integer) * (
                        cast(regexp_extract({{ column }}, ' ?{{ offset }}$', 2) as integer) * 60
                        + coalesce(try_cast(regexp_extract({{ column }}, ' ?{{ offset }}$', 3) as integer), 0)
                    )
                )
        end
    {%- endset -%}
    case
        when ({{ time }}) between timestamp '0001-01-01' and timestamp '9999-12-31 23:59:59.999999'
            then {{ time }}
    end
{%- endmacro %}

{# A number beyond these bounds is a mistake, and the sums of interest would overflow with it. The cast alone would take
   1_000 for 1000. #}
{% macro number(column) -%}
    case
        when
            regexp_full_match({{ column }}, '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?')
            and abs(try_cast({{ column }} as double)) <= 1e12
            then try_cast({{ column }} as double)
    end
{%- endmacro %}

{# An id is kept as it came; beyond this it is none, and every list that holds it would carry its weight. #}
{% macro is_oversized(columns) -%}
    coalesce(greatest(
        {%- for column in columns %}length({{ column }}){{ ', ' if not loop.last }}{% endfor -%}
    ) > {{ var('longest_id') }}, false)
{%- endmacro %}

{# Plain ASCII without markup only needs its blanks put right; the rest goes through the plugin's function. What is longer
   than any text that people write is cut: nobody reads on, and repairing it takes seconds. #}
{% macro tidied(text_column) -%}
    {%- set column = 'left(' ~ text_column ~ ', ' ~ var('longest_text') ~ ')' -%}
    case
        when regexp_full_match({{ column }}, '[ -%''-;=-~]*')
            then nullif(trim(
                -- Few texts have two blanks in a row, and replacing is slow.
                case
                    when contains({{ column }}, '  ') then regexp_replace({{ column }}, ' +', ' ', 'g') else {{ column }}
                end
            ), '')
        else nullif(tidy_text({{ column }}), '')
    end
{%- endmacro %}

{# The object in the column `attributes`, as JSON or as text; null if there is none that can be read. #}
{% macro given_attributes(raw) -%}
    case json_type({{ raw }}, '$.attributes')
        when 'OBJECT' then json_extract({{ raw }}, '$.attributes')
        when 'VARCHAR'
            then case
                when
                    json_valid({{ raw }} ->> '$.attributes') and json_type({{ raw }} ->> '$.attributes') = 'OBJECT'
                    and len(json_keys({{ raw }} ->> '$.attributes'))
                    = len(list_distinct(json_keys({{ raw }} ->> '$.attributes')))
                    then cast({{ raw }} ->> '$.attributes' as json)
            end
    end
{%- endmacro %}

{# The attributes that came and every unknown column, as one JSON object with sorted keys; null if there are none. An
   empty text is none: CSV has no other way to say so, and the same row must be the same in every format.
   `given` is a column of `given_attributes`: what stands in a lambda is computed anew for each member. #}
{% macro attributes(raw, given, known) -%}
    nullif(
        cast(
            to_json(
                map_from_entries(
                    list_sort(
                        list_filter(
                            map_entries(
                                map_concat(
                                    map_from_entries(
                                        list_filter(
                                            map_entries(cast({{ raw }} as map(varchar, json))),
                                            lambda e: e.key not in ('{{ known | join("', '") }}')
                                            and not (e.key = 'attributes' and {{ given }} is not null)
                                        )
                                    ),
                                    cast({{ given }} as map(varchar, json))
                                )
                            ),
                            lambda e: e.value is not null and cast(e.value as varchar) <> '""'
                        )
                    )
                )
            ) as varchar
        ),
        '{}'
    )
{%- endmacro %}

{# The same with whatever is in them as every format gives it: JSON in a text has numbers, and keys in any order. #}
{% macro plain_attributes(column) -%}
    case when regexp_matches({{ column }}, '":[^"]') then plain_json({{ column }}) else {{ column }} end
{%- endmacro %}

{# Whether a name belongs to test traffic. #}
{% macro is_test_user(column) -%}
    exists (
        select 1
        from {{ ref('test_users') }} as test_user
        where regexp_full_match(lower({{ column }}), test_user.pattern)
    )
{%- endmacro %}
