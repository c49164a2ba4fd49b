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

{# ISO 8601 with or without a zone, seconds or milliseconds since 1970; in UTC. #}
{% macro utc_time(column) -%}
    case
        when regexp_full_match({{ column }}, '-?[0-9]{1,16}([.][0-9]*)?([eE][+]?[0-9]{1,2})?')
            then case
                when abs(try_cast({{ column }} as double)) < 1e11
                    then make_timestamp(cast(round(try_cast({{ column }} as double) * 1e6) as bigint))
                when abs(try_cast({{ column }} as double)) < 1e14
                    then make_timestamp(cast(round(try_cast({{ column }} as double) * 1e3) as bigint))
            end
        when regexp_matches({{ column }}, '^[0-9]{4}-[0-9]{2}-[0-9]{2}')
            then make_timestamp(epoch_us(try_cast({{ column }} as timestamptz)))
    end
{%- endmacro %}

{% macro number(column) -%}
    case when isfinite(try_cast({{ column }} as double)) then try_cast({{ column }} as double) end
{%- endmacro %}

{# Plain ASCII without markup only needs its blanks put right; the rest goes through the plugin's function. #}
{% macro tidied(column) -%}
    case
        when regexp_full_match({{ column }}, '[ -%''-;=-~]*')
            then nullif(trim(regexp_replace({{ column }}, ' +', ' ', 'g')), '')
        else nullif(tidy_text({{ column }}), '')
    end
{%- endmacro %}

{# The attributes that came and every unknown column, as one JSON object with sorted keys; null if there are none. #}
{% macro attributes(raw, known) -%}
    {%- set given -%}
        case json_type({{ raw }}, '$.attributes')
            when 'OBJECT' then json_extract({{ raw }}, '$.attributes')
            when 'VARCHAR'
                then case
                    when json_valid({{ raw }} ->> '$.attributes') and json_type({{ raw }} ->> '$.attributes') = 'OBJECT'
                        then cast({{ raw }} ->> '$.attributes' as json)
                end
        end
    {%- endset -%}
    nullif(
        cast(
            to_json(
                map_from_entries(
                    list_sort(
                        list_concat(
                            list_filter(
                                coalesce(map_entries(cast({{ given }} as map(varchar, json))), []),
                                lambda e: e.value is not null
                            ),
                            list_filter(
                                map_entries(cast({{ raw }} as map(varchar, json))),
                                lambda e: e.value is not null
                                and e.key not in ('{{ known | join("', '") }}')
                                and not (e.key = 'attributes' and ({{ given }}) is not null)
                                and coalesce(
                                    not list_contains(json_keys({{ given }}), e.key), true
                                )
                            )
                        )
                    )
                )
            ) as varchar
        ),
        '{}'
    )
{%- endmacro %}

{# Whether a name belongs to test traffic. #}
{% macro is_test_user(column) -%}
    exists (
        select 1
        from {{ ref('test_users') }} as test_user
        where regexp_full_match(lower({{ column }}), test_user.pattern)
    )
{%- endmacro %}
